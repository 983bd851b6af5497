"""The configuration: frozen pydantic models.

A workflow file (config/config.yaml) names experiments; an experiment file (config/experiments/NAME.yaml) holds one model,
its SAEs, a feature set, and the sections that its kind reads: scores, sweep or comparison. Unknown keys are refused with the
nearest valid key named. config/README.md and the schemas beside it are generated from here.
"""

from saesteer.core.errors import SettingsError
from saesteer.settings.base import Settings, canonical_factor, experiment_name
from saesteer.settings.experiment import Addresses, Comparison, Experiment, Scores, Steering, Sweep, Workflow
from saesteer.settings.inputs import (
    AllFeatures,
    ExampleConcepts,
    ExplainedFeatures,
    ExplicitFeatures,
    GivenConcept,
    LocalExamples,
    ModelSource,
    NearestConcepts,
    NeuronpediaExamples,
    NoConcepts,
    PackageSource,
    PublishedFeatures,
    SaeSettings,
    SampledFeatures,
    TopicConcepts,
)
from saesteer.settings.load import derived_from, experiment_of, load_experiment, load_workflow, read_workflow
from saesteer.settings.methods import (
    LabelledTexts,
    MethodSettings,
    NamedConcepts,
    PromptWriter,
    ProtocolSettings,
    PublishedConcepts,
    TopicTexts,
)
from saesteer.settings.steps import (
    BestFactorSettings,
    Edit,
    EmbeddingJudge,
    Endpoint,
    EndpointJudge,
    ExplanationSettings,
    IntervalSettings,
    LocalModelJudge,
    NoJudge,
    OracleJudge,
    OutputScoreSettings,
    RecommendationSettings,
    SelectionSettings,
)
