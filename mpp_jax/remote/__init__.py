"""What lies elsewhere: files at object stores and web servers, and copies of folders there."""
