"""What people do with studies that are there: look into them, check, rebuild, and ask what else might have come."""
