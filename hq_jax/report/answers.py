"""Answers of a model for the test images: by class, by pair, the worst."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_MAX_MISTAKES = 12
_MAX_RIGHT = 8
_MAX_CLASSES = 1000
_MAX_CONFUSIONS = 50


class Answers(NamedTuple):
  """A model's answers, each image once; five arrays `[n]`.

  Attributes:
    position: int32, of the image in its split, rising.
    label: int32.
    prediction: int32, the most probable class.
    probability: float32, of the prediction.
    label_probability: float32, of the label.
  """

  position: np.ndarray
  label: np.ndarray
  prediction: np.ndarray
  probability: np.ndarray
  label_probability: np.ndarray


def take(answers: Answers, rows: np.ndarray) -> Answers:
  """Some of the answers."""
  return Answers(*(field[rows] for field in answers))


def find_worst(answers: Answers) -> Answers:
  """The mistakes that the model is most sure of, the surest first."""
  wrong = take(answers, np.flatnonzero(answers.prediction != answers.label))
  order = np.argsort(-np.nan_to_num(wrong.probability), kind='stable')
  return take(wrong, order[:_MAX_MISTAKES])


def find_right(answers: Answers) -> Answers:
  """A few right answers, spread over the classes."""
  right = take(answers, np.flatnonzero(answers.prediction == answers.label))
  order = np.argsort(right.label, kind='stable')
  count = min(len(order), _MAX_RIGHT)
  places = ((np.arange(count) + 0.5) * len(order) / max(count, 1)).astype(int)
  return take(right, order[places])


def count_confusions(answers: Answers) -> list[tuple[int, int, int]]:
  """Label, wrong prediction and how often, the most frequent first."""
  wrong = answers.prediction != answers.label
  pairs, counts = np.unique(
    np.stack([answers.label[wrong], answers.prediction[wrong]]),
    axis=1,
    return_counts=True,
  )
  order = np.argsort(-counts, kind='stable')
  rows = np.vstack([pairs, counts])[:, order].T
  return [(label, guess, count) for label, guess, count in rows.tolist()]


def count_matrix(answers: Answers, num_classes: int) -> np.ndarray:
  """How many images of each class (row) were taken for each (column)."""
  matrix = np.zeros((num_classes, num_classes), np.int64)
  np.add.at(matrix, (answers.label, answers.prediction), 1)
  return matrix


def find_balanced(answers: Answers | None) -> float | None:
  """The mean of the accuracies of the classes that have test images."""
  if answers is None or not len(answers.label):
    return None
  totals = np.bincount(answers.label)
  is_right = answers.prediction == answers.label
  rights = np.bincount(answers.label, weights=is_right)
  return float(np.mean(rights[totals > 0] / totals[totals > 0]))


def summarize(
  answers: Answers | None, class_names: Sequence[str]
) -> dict[str, Any]:
  """The accuracy of each class and the commonest mistakes, for JSON.

  No more than 1,000 classes, the least accurate, and 50 pairs of classes.
  """
  if answers is None:
    return {'classes': [], 'confusions': []}
  num_classes = len(class_names)
  is_right = answers.prediction == answers.label
  totals = np.bincount(answers.label, minlength=num_classes).tolist()
  rights = np.bincount(answers.label[is_right], minlength=num_classes).tolist()
  confusions = count_confusions(answers)
  commonest: dict[int, int] = {}
  for label, guess, _ in confusions:
    commonest.setdefault(label, guess)
  rows = [
    {
      'name': class_names[label],
      'num_examples': total,
      'accuracy': right / total if total else None,
      'mostly_taken_for': class_names[commonest[label]]
      if label in commonest
      else None,
    }
    for label, (total, right) in enumerate(zip(totals, rights, strict=True))
  ]
  if num_classes > _MAX_CLASSES:
    get_accuracy = lambda x: 2.0 if x['accuracy'] is None else x['accuracy']
    rows = sorted(rows, key=get_accuracy)[:_MAX_CLASSES]
  return {
    'classes': rows,
    'confusions': [
      {
        'label': class_names[label],
        'prediction': class_names[guess],
        'num_examples': count,
      }
      for label, guess, count in confusions[:_MAX_CONFUSIONS]
    ],
  }
