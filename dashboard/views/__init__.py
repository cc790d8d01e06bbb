"""What answers each address: one function a page. Each reads or calls one domain function, and hands over to a template."""
