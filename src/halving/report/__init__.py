"""What people read after a study: tables, figures and one HTML page, all derived from its history."""
