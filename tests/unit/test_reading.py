"""The whitespace of a page that a reader sees, and that which no reader sees."""

from __future__ import annotations

from types import SimpleNamespace

from tests.support.reading import read_page

PAGE = """<dl>
  <dt
    class="num
      wide">7</dt>
  <dd>as <b
    >bold</b
    >, done
    twice </dd></dl>
<pre>as
  it  is</pre> <input value="a
 b">"""


def test_only_the_whitespace_that_shows_is_left() -> None:
    assert read_page(SimpleNamespace(content=PAGE.encode())) == (
        '<dl><dt class="num wide">7</dt><dd>as <b>bold</b>, done twice</dd></dl>'
        '<pre>as\n  it  is</pre> <input value="a\n b">'
    )
