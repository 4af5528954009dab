"""What every Interlock service stands on; it knows no service."""
