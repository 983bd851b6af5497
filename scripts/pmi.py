"""PMI of each feature's most generated tokens with its lens tokens, and its mean by threshold."""

from common import open_job

from saesteer.analysis.pmi import feature_pmi, pmi_by_threshold
from saesteer.core.store import read_rows
from saesteer.core.tables import FEATURE_PMI, FEATURES, GENERATIONS, OUTCOMES, PMI, of_features, read_summary, write_summary
from saesteer.sources.corpus import pmi_texts

job = open_job(snakemake)
generations = of_features(read_rows(GENERATIONS, job.inputs["generations"]))
outcomes, features = read_summary(OUTCOMES, job.input("outcomes")), read_summary(FEATURES, job.input("features"))
texts = pmi_texts(job.input("texts_file"), job.model_folder())
by_feature = feature_pmi(generations, outcomes, features, texts, job.experiment.best_factor.rule)
write_summary(FEATURE_PMI, by_feature, job.outputs["feature_pmi"])
write_summary(PMI, pmi_by_threshold(by_feature, job.experiment.selection), job.outputs["pmi"])
