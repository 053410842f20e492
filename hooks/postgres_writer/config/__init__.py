"""The configuration: text becomes frozen values. It reads files only to check them and opens no socket."""
