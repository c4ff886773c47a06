"""Step 7's report as one page: what the step left on disk flows in, one self-contained file out.

    counts        what every threshold would come to, counted beforehand, and the curves' points
    finished_run  a run's decision, predictions and tables, as Steps 6 and 7 left them
    contents      the numbers that the page's script looks up
    rows          which memes the page carries, read from the error table a part at a time
    thumbnails    their pictures, small
    sections      tables and charts, as HTML; charts draws them, by Vega-Lite into SVG
    embedding     JSON and scripts that no text within them can end
    page          the file: `page.html`, `page.css` and `page.js` beside it, and DataTables

Vega-Lite draws here and not in the browser: its script and that of DataTables would together leave
a tenth of the page's 2 MB for memes.
"""
