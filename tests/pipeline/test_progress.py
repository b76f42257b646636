import io

from custom_transforms.pipeline.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_nobody_watches_and_nothing_is_said():
    stream = io.StringIO()
    progress = Progress("sub-01", ["reading", "background"], stream=stream)
    progress.begin("reading")
    progress.begin("background")
    progress.close()
    assert stream.getvalue() == ""


def test_somebody_watches_and_sees_the_stage_and_the_time_left():
    stream = Terminal()
    progress = Progress("sub-01", ["reading", "background"], stream=stream)
    progress.begin("reading")
    progress.begin("background")
    progress.close()
    text = stream.getvalue()
    assert "sub-01" in text
    assert "background" in text
    assert "left" in text
    assert "100%" in text


def test_verbose_writes_a_line_for_each_stage_even_if_nobody_watches():
    stream = io.StringIO()
    progress = Progress("sub-01", ["reading", "mask"], verbose=True, stream=stream)
    progress.begin("reading")
    progress.begin("mask")
    progress.end("from the cache")
    progress.close()
    first, second = stream.getvalue().splitlines()
    assert first.startswith("sub-01: reading ")
    assert first.endswith(" s")
    assert second == "sub-01: mask from the cache"
