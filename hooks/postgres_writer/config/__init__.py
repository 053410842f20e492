"""The configuration: text becomes frozen values. It opens no socket."""
