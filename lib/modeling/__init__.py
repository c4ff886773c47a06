"""Steps 4 and 5: shards and backbones flow in, trained models and their logits flow out.

`backbones` are fine-tuned to the text and the vision expert (`experts`, `expert_trainer`,
`trainable_layers`); the experts become frozen `encoders`, with a `dual_encoder` beside them if one
is set, whose `features` are cached; a head (`heads`) is trained on these (`fusion_inputs`,
`fusion_training`), tuned with the top of its encoders if asked for (`fusion_tuning`), and saved
with what loads it again (`fusion`, `own_encoders`); `predictions` runs all three models over the
shards for Steps 6 and 7.
"""
