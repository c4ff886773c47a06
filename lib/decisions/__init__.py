"""Steps 6 and 7: predictions flow in, metrics, decisions and evidence on them flow out.

`evaluation` reports what the models are worth; `bundle` fits and keeps temperatures, thresholds
and where they came from, and the `policy` that allows, blocks or asks a person; `policy_choice`
finds its cuts, which `policy_certificates` certify, and `policy_outcomes` says what it comes to;
`calibration_tables` says what temperatures and thresholds changed, `rivals` what other calibrators
would have; `report` judges the frozen decision, `prevalence` at another share of hate;
`error_analysis` lists every decision with the `nearest` training memes, `slices` and `fairness`
count its errors; `label_suspects` doubts labels of train; `modalities` and `pairs` ask whether text
and picture are both used; `robustness` applies the `perturbations` and `robustness_rows` says what
they changed; `resampled_counts` has the intervals of what is counted.
"""
