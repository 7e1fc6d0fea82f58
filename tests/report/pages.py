"""A page as a browser reads it: its elements, its text, its pictures."""

import base64
from html import parser
import io

import numpy as np
from PIL import Image

_VOID = {'meta', 'img', 'br'}


class Page(parser.HTMLParser):
  """What is on a page; refuses elements that are not closed in order."""

  def __init__(self, text: str):
    super().__init__()
    self.elements: list[tuple[str, dict]] = []
    self.tables: list[list[list[str]]] = []
    self.scripts: list[str] = []
    self.text = ''
    self._open: list[str] = []
    self.feed(text)
    self.close()
    assert self._open == []

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in _VOID:
      self._open.append(tag)
    if tag == 'table':
      self.tables.append([])
    elif tag == 'tr':
      self.tables[-1].append([])
    elif tag in ('td', 'th'):
      self.tables[-1][-1].append('')

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self._open.pop() == tag, self.getpos()

  def handle_data(self, data):
    if 'script' in self._open:
      self.scripts.append(data)
    elif 'style' not in self._open:
      self.text += data
      if 'tr' in self._open and self.tables[-1][-1]:
        self.tables[-1][-1][-1] += data

  def find(self, tag):
    return [attributes for name, attributes in self.elements if name == tag]

  def pictures(self):
    """The arrays of all pictures."""
    found = []
    for attributes in self.find('img'):
      head, _, data = attributes['src'].partition(',')
      assert head == 'data:image/png;base64'
      with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        found.append(np.asarray(image))
    return found
