"""Files in and out: uploads, examples, downloads."""
