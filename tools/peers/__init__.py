"""The programs that pgctl is compared with, one module each."""
