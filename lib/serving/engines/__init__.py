"""Faster passes of the encoders: measured once a machine, gated on decisions, kept beside the run.

`onnx_files` writes, checks and runs graphs of any module. `runtimes` names what can run an encoder;
`measuring` chooses, `kept` remembers and applies it. `export` writes one graph for other languages.
"""
