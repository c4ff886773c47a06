"""Pictures of all steps: tables and histories flow in, Matplotlib figures flow out.

`single_plots` draw on an Axes of yours; `notebook_figures` are whole figures composed of them,
`slice_figures` those of slices and modalities.
"""
