"""The configuration: frozen pydantic models, and the only reader of YAML.

A workflow file (config/config.yaml) names experiments; an experiment file (config/experiments/NAME.yaml) holds one model,
its SAEs, a feature set and a protocol. Unknown keys are refused with the nearest valid key named. config/schema.json and
config/README.md are generated from here.
"""

from saesteer.core.errors import SettingsError
from saesteer.settings.base import Factor, Layers, Settings, canonical_factor, experiment_name, unique
from saesteer.settings.experiment import Addresses, Experiment, Workflow, settings_of
from saesteer.settings.inputs import (
    AllFeatures,
    ConceptSettings,
    ExplainedFeatures,
    ExplanationConcepts,
    ExplicitFeatures,
    FeatureSet,
    GivenConcept,
    LocalRecords,
    ModelSettings,
    NeuronpediaRecords,
    NoConcepts,
    PublishedFeatures,
    RecordSettings,
    SaeSettings,
    SampledFeatures,
    TopicConcepts,
)
from saesteer.settings.load import PRESETS, load_experiment, load_workflow, read_yaml
from saesteer.settings.methods import MethodSettings, NamedConcepts, OwnTexts, PromptWriter, PublishedConcepts, TopicTexts
from saesteer.settings.steps import (
    BestFactorSettings,
    Endpoint,
    EndpointJudge,
    FigureSettings,
    GenSuccessSettings,
    InputScoreSettings,
    JudgeSettings,
    LanguageModelJudge,
    LocalModelJudge,
    LogitLensSettings,
    NoJudge,
    OracleJudge,
    OutputScoreSettings,
    PerplexitySettings,
    PmiSettings,
    SelectionSettings,
    SweepSettings,
)
