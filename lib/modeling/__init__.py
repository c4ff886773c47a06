"""Steps 4 and 5: shards and backbones flow in, trained models and their logits flow out.

`backbones` are fine-tuned to the text and the vision expert (`experts`, `expert_trainer`,
`trainable_layers`); the experts become frozen `encoders`, whose `features` are cached; a head
(`heads`) is trained on these (`fusion_training`) and saved with what loads it again (`fusion`);
`predictions` runs all three models over the shards for Steps 6 and 7.
"""
