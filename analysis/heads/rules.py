"""The rules that name heads: means of effects -> which heads each rule names in a task, and which under a corruption.

NOTICE's rule takes mean |effect|: a head is important in a task when it stands out, and universal under a corruption when it is
important in every task (or in at least k of n). It has no test, and a head that is only noisy counts.

By the robust rule a head is important in a task when its mean effect, with its sign,

- differs from 0: q <= alpha (Benjamini and Hochberg 1995 over all heads), and
- stands out: |mean effect| at least mean + 2 SD over all heads of |mean effect|.

It is universal under a corruption when it stands out with the same sign in every task (or in at least k of n), and so many tasks have
an effect of that sign beyond chance: q <= alpha of their partial conjunction, over all heads, corruptions and signs of the model. Where no
head has an effect, at most a share alpha of studies names a universal head; where one task is enough to, only if noise is symmetric. Where
some have, about a share alpha of the heads that pass the test is expected to have none; standing out is asked for after it, and only takes
heads away.

`RULES` has an entry for each rule, which tables, figures and the report iterate over. Arrays are [corruption, task, ..., layer, head]: what
`...` stands for (resamples) is judged alike.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.stats.multiple_tests import discoveries, partial_conjunction_p
from analysis.stats.resampling import student_p

SIGNS = (1, -1)
HEADS = (-2, -1)  # the axes layer and head


@dataclass(frozen=True)
class Kind:
    """What a universal head is called, by the modalities under whose corruption it is universal."""

    name: str
    modalities: frozenset[str]


KINDS = (Kind("vision", frozenset({"image"})), Kind("text", frozenset({"text"})), Kind("multimodal", frozenset({"image", "text"})))
NO_KIND = "none"


@dataclass(frozen=True)
class Means:
    """Means over samples: of effects, of |effects| and of their squares, each [..., layer, head], and the number of samples."""

    effect: np.ndarray
    absolute: np.ndarray
    square: np.ndarray
    samples: int | np.ndarray


@dataclass(frozen=True)
class Evidence:
    """What a rule judges the heads of tasks by, each [..., layer, head].

    Attributes
    ----------
    stands_out : bool
    sign : of the mean effect, -1, 0 or 1; None for a rule that takes no sign
    p : two-sided, that the mean effect is 0; None for a rule without a test
    """

    stands_out: np.ndarray
    sign: np.ndarray | None = None
    p: np.ndarray | None = None


@dataclass(frozen=True)
class HeadRule:
    """A rule that names heads, with all that the program says of it.

    Attributes
    ----------
    name : in tables
    title : in words and figures
    evidence : (means, deviations, alpha) -> what the rule judges by
    score : means -> what the rule ranks heads by, [..., layer, head]
    in_task, in_task_sign : variables of `robust_heads.nc` that say which heads are important in a task, and their signs
    universal, universal_sign, kind : variables of `robust_heads.nc`: which heads are universal, their signs and kinds
    in_task_frequency, universal_frequency : variables of `robust_heads.nc`: share of resamples in which the rule names a head
    power, false_runs : columns of `robust_power.csv`
    """

    name: str
    title: str
    evidence: Callable[[Means, float, float], Evidence]
    score: Callable[[Means], np.ndarray]
    in_task: str
    universal: str
    kind: str
    in_task_frequency: str
    universal_frequency: str
    power: str
    false_runs: str
    in_task_sign: str | None = None
    universal_sign: str | None = None

    @property
    def signed(self) -> bool:
        return self.in_task_sign is not None


def stand_out(size: np.ndarray, deviations: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """The heads whose size is at least mean + `deviations` SD over all heads (NOTICE, universal attention heads).

    Parameters
    ----------
    size : [..., layer, head], such as the mean over samples of |effect|; NaN where not measured
    deviations : population standard deviations over layer and head

    Returns
    -------
    Whether each head stands out (bool, same shape), and the threshold [...]. Where all heads have the same size none stands out.

    >>> size = np.array([[0.1, 0.1, 0.1], [0.1, 0.1, 2.0]])
    >>> heads, threshold = stand_out(size)
    >>> heads
    array([[False, False, False],
           [False, False,  True]])
    >>> round(float(threshold), 3)
    1.833
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all NaN, where a task did not run
        threshold = np.nanmean(size, axis=HEADS) + deviations * np.nanstd(size, axis=HEADS)
        unequal = np.nanmax(size, axis=HEADS) > np.nanmin(size, axis=HEADS)
    return (size >= threshold[..., None, None]) & unequal[..., None, None], threshold


def important(evidence: Evidence, alpha: float) -> np.ndarray:
    """The heads that are important in each task: bool [..., layer, head].

    >>> evidence = Evidence(np.array([[True, True, False]]), np.array([[1, -1, 1]]), np.array([[0.001, 0.8, 0.001]]))
    >>> important(evidence, alpha=0.05), important(Evidence(evidence.stands_out), alpha=0.05)
    (array([[ True, False, False]]), array([[ True,  True, False]]))
    """
    if evidence.p is None:
        return evidence.stands_out
    of_heads = evidence.p.reshape(*evidence.p.shape[:-2], -1)
    return discoveries(of_heads, alpha).reshape(evidence.p.shape) & evidence.stands_out


def signed_important(evidence: Evidence, alpha: float) -> np.ndarray:
    """The heads that are important in each task by their signs, else 0; or true and false, where the rule takes no sign.

    >>> evidence = Evidence(np.array([[True, True, False]]), np.array([[1, -1, 1]]), np.array([[0.001, 0.001, 0.001]]))
    >>> signed_important(evidence, alpha=0.05)
    array([[ 1, -1,  0]])
    """
    heads = important(evidence, alpha)
    return heads if evidence.sign is None else heads * evidence.sign


def replication(evidence: Evidence, ran: np.ndarray, at_least: int) -> tuple[np.ndarray, np.ndarray]:
    """P-values that too few tasks have an effect of one sign, and whether a head stands out with that sign in enough tasks.

    Parameters
    ----------
    evidence : [corruption, task, ..., layer, head], with signs and p
    ran : bool [corruption, task]
    at_least : number of tasks; 0 for all that ran

    Returns
    -------
    Both [2, corruption, ..., layer, head]: positive, negative

    >>> p, sign = np.array([[[[0.01]], [[0.04]], [[1.0]]]]), np.array([[[[1]], [[1]], [[0]]]])
    >>> p, enough = replication(Evidence(p < 1, sign, p), np.array([[True, True, False]]), at_least=0)
    >>> p.ravel(), enough.ravel()
    (array([0.02 , 0.995]), array([ True, False]))
    """
    p, sign = evidence.p, evidence.sign
    assert p is not None
    assert sign is not None
    shape = (len(SIGNS), len(p), *p.shape[2:])
    by_sign, enough = np.ones(shape), np.zeros(shape, dtype=bool)
    for c, tasks in enumerate(ran):
        needed = at_least or int(tasks.sum())
        by_sign[:, c] = partial_conjunction_p(p[c, tasks], sign[c, tasks], needed)
        enough[:, c] = [(evidence.stands_out[c, tasks] & (sign[c, tasks] == one)).sum(axis=0) >= needed for one in SIGNS]
    return by_sign, enough


def universal_by_sign(evidence: Evidence, ran: np.ndarray, at_least: int, alpha: float) -> np.ndarray:
    """The heads that are universal under each corruption with either sign: bool [2, corruption, ..., layer, head].

    Parameters are those of `replication`. Tests are corrected over signs, corruptions and heads together.

    >>> p, sign = np.array([[[[0.01, 0.5]], [[0.02, 0.5]]]]), np.ones((1, 2, 1, 2), dtype=int)
    >>> universal_by_sign(Evidence(p < 0.1, sign, p), np.array([[True, True]]), at_least=0, alpha=0.05)[:, 0, 0]
    array([[ True, False],
           [False, False]])
    """
    by_sign, enough = replication(evidence, ran, at_least)
    tests = np.moveaxis(by_sign, (0, 1), (-4, -3))
    passing = discoveries(tests.reshape(*tests.shape[:-4], -1), alpha).reshape(tests.shape)
    return np.moveaxis(passing, (-4, -3), (0, 1)) & enough


def universal(evidence: Evidence, ran: np.ndarray, at_least: int = 0, alpha: float = 0.05) -> np.ndarray:
    """The heads that are universal under each corruption: in every task that ran, or in at least so many of them.

    Parameters
    ----------
    evidence : [corruption, task, ..., layer, head]
    ran : bool [corruption, task]; a corruption under which no task ran has no universal heads
    at_least : number of tasks; 0 for all that ran
    alpha : share of false discoveries, for a rule with a test

    Returns
    -------
    bool [corruption, ..., layer, head]

    >>> evidence, ran = Evidence(np.array([[[[True, False]], [[True, True]]]])), np.array([[True, True]])
    >>> universal(evidence, ran), universal(evidence, ran, at_least=1)
    (array([[[ True, False]]]), array([[[ True,  True]]]))
    """
    if evidence.p is not None:
        return np.asarray(universal_by_sign(evidence, ran, at_least, alpha).any(axis=0))
    heads = np.zeros((len(ran), *evidence.stands_out.shape[2:]), dtype=bool)
    for c, tasks in enumerate(ran):
        if tasks.any():
            heads[c] = evidence.stands_out[c, tasks].sum(axis=0) >= (at_least or tasks.sum())
    return heads


def of_kinds(heads: np.ndarray, modality: list[str]) -> dict[str, np.ndarray]:
    """Which heads are of each kind: bool [..., layer, head] by the kind's name.

    Parameters
    ----------
    heads : the universal ones, bool [corruption, ..., layer, head]
    modality : "image" or "text" of each corruption

    >>> heads = np.array([[[True, True, False]], [[True, False, False]]])
    >>> {name: of.tolist() for name, of in of_kinds(heads, ["image", "text"]).items()}
    {'vision': [[False, True, False]], 'text': [[False, False, False]], 'multimodal': [[True, False, False]]}
    """
    under = {name: heads[np.array(modality) == name].any(axis=0) for name in frozenset().union(*(kind.modalities for kind in KINDS))}
    return {kind.name: np.logical_and.reduce([of == (name in kind.modalities) for name, of in under.items()]) for kind in KINDS}


def kind_names(heads: np.ndarray, modality: list[str]) -> np.ndarray:
    """The name of the kind of each head, or "none": str [..., layer, head]; parameters are those of `of_kinds`.

    >>> kind_names(np.array([[[True, True, False]], [[True, False, False]]]), ["image", "text"])
    array([['multimodal', 'vision', 'none']], dtype=object)
    """
    kinds = of_kinds(heads, modality)
    return np.select(list(kinds.values()), list(kinds), NO_KIND).astype(object)


def kind_rank(name: str) -> int:
    """The place of a kind's name in the order of `KINDS`; that of no kind is last.

    >>> sorted(["none", "text", "vision"], key=kind_rank)
    ['vision', 'text', 'none']
    """
    names = [kind.name for kind in KINDS]
    return names.index(name) if name in names else len(names)


def signed_evidence(effect: np.ndarray, p: np.ndarray, deviations: float) -> Evidence:
    """What the robust rule judges by, from mean effects and their p-values [..., layer, head].

    >>> evidence = signed_evidence(np.array([[0.1, -0.1, -2.0]]), np.array([[0.5, 0.5, 0.01]]), deviations=1.0)
    >>> evidence.stands_out, evidence.sign
    (array([[False, False,  True]]), array([[ 1, -1, -1]], dtype=int8))
    """
    return Evidence(stand_out(np.abs(effect), deviations)[0], np.sign(np.nan_to_num(effect)).astype("int8"), p)


def _notice_evidence(means: Means, deviations: float, alpha: float) -> Evidence:
    return Evidence(stand_out(means.absolute, deviations)[0])


def _robust_evidence(means: Means, deviations: float, alpha: float) -> Evidence:
    """With Student's p, to which those of sign flips tend; 1 where no test can pass: the one-sided p is half of it."""
    p = student_p(means.effect, means.square, means.samples, needed=min(2 * alpha, 1))
    return signed_evidence(means.effect, p, deviations)


NOTICE = HeadRule(
    name="notice",
    title="NOTICE's rule",
    evidence=_notice_evidence,
    score=lambda means: means.absolute,
    in_task="selected",
    universal="notice_universal",
    kind="notice_kind",
    in_task_frequency="notice_selection_frequency",
    universal_frequency="notice_universal_frequency",
    power="notice_power",
    false_runs="notice_false_runs",
)
ROBUST = HeadRule(
    name="robust",
    title="robust rule",
    evidence=_robust_evidence,
    score=lambda means: means.effect,
    in_task="important",
    universal="universal",
    kind="kind",
    in_task_frequency="selection_frequency",
    universal_frequency="universal_frequency",
    power="power",
    false_runs="false_runs",
    in_task_sign="sign",
    universal_sign="universal_sign",
)
RULES = (NOTICE, ROBUST)


def rule_title(name: str, if_signed: str = "") -> str:
    """The title of a rule by its name in tables, with more words for a rule that takes signs; the name where there is no such rule.

    >>> rule_title("robust", " (same sign)"), rule_title("notice", " (same sign)"), rule_title("other")
    ('robust rule (same sign)', "NOTICE's rule", 'other')
    """
    rule = next((one for one in RULES if one.name == name), None)
    return name if rule is None else rule.title + (if_signed if rule.signed else "")
