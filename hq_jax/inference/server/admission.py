"""A bound on what requests hold at one time."""

from starlette import exceptions


class Room:
  """So much is there for all requests together; who finds none comes again."""

  def __init__(self, most: int, what: str):
    self.used = 0
    self._most = most
    self._what = what

  def take(self, amount: int) -> None:
    """Takes a part, or raises what becomes status 503."""
    if self.used + amount > self._most:
      raise exceptions.HTTPException(
        503,
        f'{self._what} of other requests fill the server, come again',
        {'Retry-After': '1'},
      )
    self.used += amount

  def give_back(self, amount: int) -> None:
    """Returns a part that was taken."""
    self.used -= amount
