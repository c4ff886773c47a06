"""The generated benchmark: vocabulary (a data file), design (which meme says what) and drawing."""
