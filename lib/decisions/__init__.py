"""Steps 6 and 7: predictions flow in, metrics, decisions and evidence on them flow out.

`evaluation` reports what the models are worth; `bundle` fits and keeps temperatures, thresholds
and where they came from; `calibration_tables` says what they changed, `rivals` what other
calibrators would have; `report` judges the frozen decision, `prevalence` at another share of hate;
`error_analysis` lists every decision with its slices; `robustness` applies the `perturbations`.
"""
