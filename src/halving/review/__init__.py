"""What people do with studies that are there: compare, check, rebuild and look into them."""
