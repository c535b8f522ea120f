"""Sphinx configuration of the documentation site; nbs/_site/build.py calls it on pages that it
has made from the notebooks
"""

project = html_title = "fairgrape"
author = copyright = "the fairgrape team"
extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinx_copybutton"]

nb_execution_mode = "off"  # outputs are those that the notebooks hold
nb_merge_streams = True
nb_code_prompt_show = "Show the source"
nb_code_prompt_hide = "Hide the source"
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "dollarmath", "fieldlist"]
myst_heading_anchors = 4
suppress_warnings = ["ref.python"]  # a type named in a signature may be an attribute elsewhere, too
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"
mathjax_path = "mathjax/tex-mml-chtml.js"  # local: the site works offline

html_theme = "furo"
html_static_path = ["static"]
html_favicon = "static/favicon.svg"
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = html_show_sourcelink = html_show_sphinx = False
html_last_updated_fmt = None
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
templates_path = []
html_theme_options = dict(
    light_css_variables={
        "color-brand-primary": "#005a8c",
        "color-brand-content": "#005a8c",
        "color-brand-visited": "#6b3a86",
    },
    dark_css_variables={
        "color-brand-primary": "#7cc4f2",
        "color-brand-content": "#7cc4f2",
        "color-brand-visited": "#d0a9e6",
    },
)
