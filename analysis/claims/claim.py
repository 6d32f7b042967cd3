"""A claim of a paper: an entry of the table; and the subjects in a results folder that it can be tested on."""

from collections.abc import Callable
from dataclasses import dataclass

from analysis.claims.folder import DECODER, ENCODER, Folder
from analysis.claims.outcome import NOT_RUN, UNDECIDED, Finding, NotRun, Undecidable
from analysis.claims.subject import BLIP, LLAVA, NOTICE_DATA, Subject

PREPARED = ("svo_probes", "mit_states", "fer2013", "coco_qa", "vqa_v2", "clevr", "shapeworld", "iconqa")
FALLBACK_DATA = "vqa_v2"


@dataclass(frozen=True)
class Models:
    """The kinds of model that a claim can be tested on, and the paper's models, by their names in a results folder."""

    kinds: tuple[str, ...]
    papers: tuple[str, ...]


ENCODERS, DECODERS = Models((ENCODER,), BLIP), Models((DECODER,), LLAVA)
ALL_MODELS = Models((ENCODER, DECODER), (*BLIP, *LLAVA))


@dataclass(frozen=True)
class Paper:
    """A paper, and its data sets by their names in a results folder."""

    name: str
    data: tuple[str, ...]


NOTICE, PALIT = Paper("NOTICE", NOTICE_DATA), Paper("Palit et al.", ("coco_qa", "clevr"))
BASU, ZHANG = Paper("Basu et al.", ("vqa_constraints",)), Paper("Zhang et al.", ("gqa",))
BEST_PRACTICES = Paper("Zhang and Nanda", ())


@dataclass(frozen=True)
class Claim:
    """A claim of a paper.

    Attributes
    ----------
    id : its name in tables
    paper, source : the paper, and where in it
    says : what it says
    test : the statistic that is computed, and the rule by which it decides
    models : those that it is about
    judge : finds the outcome for a subject; raises `NotRun` or `Undecidable`
    each_dataset : tested on each data set apart, else on all of the model's together
    papers_model_only : it names heads or figures of the paper's model, so no other is tested
    papers_data : the data sets that it is about, where these are not all of the paper's
    """

    id: str
    paper: Paper
    source: str
    says: str
    test: str
    models: Models
    judge: Callable[[Subject], Finding]
    each_dataset: bool = True
    papers_model_only: bool = False
    papers_data: tuple[str, ...] = ()

    @property
    def data(self) -> tuple[str, ...]:
        """The names of the data sets that it is about."""
        return self.papers_data or self.paper.data

    def subjects(self, folder: Folder) -> list[Subject]:
        """The folder's models of its kinds, with each of their data sets where it is tested on each apart.

        A claim of the paper's model alone is tested on the paper's data sets alone.
        """
        models = [model for model, kind in folder.models.items() if kind in self.models.kinds]
        if self.papers_model_only:
            models = [model for model in models if model in self.models.papers]
        if not self.each_dataset:
            return [Subject(folder, model) for model in models]
        subjects = [Subject(folder, model, dataset) for model in models for dataset in folder.datasets(model)]
        return [subject for subject in subjects if subject.dataset in self.data or not self.papers_model_only]

    def papers_subject(self, folder: Folder) -> Subject:
        """The paper's model, with the first of the paper's data sets that data_prep prepares."""
        dataset = next((name for name in self.data if name in PREPARED), FALLBACK_DATA)
        return Subject(folder, self.models.papers[0], dataset if self.each_dataset else "")

    def test_on(self, subject: Subject) -> tuple[Finding, str]:
        """The finding, and the command to run where the claim was not run."""
        try:
            return self.judge(subject), ""
        except NotRun as reason:
            return Finding(NOT_RUN, note=reason.missing), reason.command
        except Undecidable as reason:
            return Finding(UNDECIDED, note=str(reason)), ""
