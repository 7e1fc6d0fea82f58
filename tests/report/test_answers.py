"""Answers by class and by pair, worked out by hand; which are shown."""

import numpy as np

from hq_jax.report import answers as answers_lib


def _make(label, prediction, probability):
  return answers_lib.Answers(
    np.arange(len(label), dtype=np.int32),
    np.array(label, np.int32),
    np.array(prediction, np.int32),
    np.array(probability, np.float32),
    np.full(len(label), 0.25, np.float32),
  )


_SOME = _make(
  [0, 0, 0, 1, 1, 1, 2],
  [0, 1, 1, 1, 0, 1, 1],
  [0.9, 0.5, 0.8, 0.7, np.nan, 0.4, 0.6],
)


def test_classes_and_pairs():
  found = answers_lib.summarize(_SOME, ('a', 'b', 'c', 'none'))
  assert [tuple(row.values()) for row in found['classes']] == [
    ('a', 3, 1 / 3, 'b'),
    ('b', 3, 2 / 3, 'a'),
    ('c', 1, 0.0, 'b'),
    ('none', 0, None, None),
  ]
  assert [tuple(row.values()) for row in found['confusions']] == [
    ('a', 'b', 2),
    ('b', 'a', 1),
    ('c', 'b', 1),
  ]
  np.testing.assert_array_equal(
    answers_lib.count_matrix(_SOME, 3), [[1, 2, 0], [1, 2, 0], [0, 1, 0]]
  )


def test_the_surest_mistakes_come_first():
  assert answers_lib.find_worst(_SOME).position.tolist() == [2, 6, 1, 4]
  none = answers_lib.take(_SOME, np.array([0]))
  assert len(answers_lib.find_worst(none).position) == 0
  wrong = answers_lib.take(_SOME, np.array([1]))
  assert len(answers_lib.find_right(wrong).position) == 0


def test_what_is_told_and_shown_is_bounded_and_spread():
  labels = np.arange(3000)
  wrong = labels % 2 == 1
  answers = _make(labels, labels - wrong, np.linspace(0, 1, 3000))
  found = answers_lib.summarize(answers, [f'{x}' for x in labels])
  assert len(found['classes']) == 1000
  assert {row['accuracy'] for row in found['classes']} == {0.0}
  assert len(found['confusions']) == 50
  worst = answers_lib.find_worst(answers).position
  assert worst.tolist() == list(range(2999, 2975, -2))
  right = answers_lib.find_right(answers).position
  assert len(right) == 8 and (right % 2 == 0).all()
  assert (np.diff(right) > 300).all()


def test_the_balanced_accuracy_counts_classes_alike():
  # 1 of 3, 2 of 3 and none of 1; a class without images does not count.
  assert answers_lib.find_balanced(_SOME) == 1 / 3
  gap = _make([0, 0, 0, 2], [0, 0, 0, 1], [0.5] * 4)
  assert answers_lib.find_balanced(gap) == 0.5
  assert answers_lib.find_balanced(None) is None
