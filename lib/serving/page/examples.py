"""A few generated memes to try the page on."""

from pathlib import Path

# Harmless and hateful ones, and the same pictures and texts under either label.
N, SEED = 5, 11


def draw_examples(folder: Path) -> list[Path]:
    """Draw `N` generated memes into a folder; returns their files."""
    # Here, since drawing loads matplotlib, which nothing else of serving does.
    from lib.data.confounders.design import generate

    paths = [folder / f"example-{number}.png" for number in range(1, N + 1)]
    for path, meme in zip(paths, generate(N, SEED), strict=True):
        assert callable(meme.image)
        meme.image().save(path)
    return paths
