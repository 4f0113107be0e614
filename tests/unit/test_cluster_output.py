"""What the launcher keeps of a rank's output."""

from pgctl.cluster.child import Output


def test_lines_are_put_together_and_the_last_twenty_kept():
    seen = []
    output = Output(seen.append)
    text = b"".join(b"line %d\n" % n for n in range(30)) + b"no newline"
    for at in range(0, len(text), 7):
        output.feed(text[at : at + 7])
    output.finish()
    assert seen == [f"line {n}" for n in range(30)] + ["no newline"]
    assert list(output.tail) == seen[-20:]


def test_a_line_without_end_does_not_grow_for_ever():
    output = Output()
    for _ in range(100):
        output.feed(bytes(100_000))
    output.finish()
    assert sum(map(len, output.tail)) <= 20 * 4096


def test_bytes_that_are_no_text_are_shown_as_such():
    output = Output()
    output.feed(b"caf\xe9\r\n")
    assert list(output.tail) == ["caf\N{REPLACEMENT CHARACTER}"]
