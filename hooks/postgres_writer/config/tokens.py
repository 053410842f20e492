"""The format of a file of bearer tokens, for everyone who reads one."""


def tokens_in(content: bytes) -> tuple[bytes, ...]:
    """Give the tokens, one a line; blank lines and lines that begin with # do not count."""
    lines = (line.strip() for line in content.splitlines())
    return tuple(line for line in lines if line and not line.startswith(b"#"))
