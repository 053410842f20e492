"""The configuration: text from the environment becomes frozen values. It reads files only to check them; it opens no socket."""
