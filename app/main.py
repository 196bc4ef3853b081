"""The dashboard: ``python -m streamlit run app/main.py``. Navigation only; the pages are in ``views/``."""

from __future__ import annotations

import gc
import sys

import streamlit as st

from app import last_words, learning, shared


@st.cache_resource(show_spinner=False)
def _settle() -> None:
    """Once per process: what the imports left is never garbage, so no later collection looks at it again.

    Sessions are threads, and each of their many messages gives the interpreter away: with a whole class, getting it
    back must not take the usual 5 ms times the number of others.
    """
    import app.figures
    import app.panels  # noqa: F401

    last_words.listen()
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(0.0005)


st.set_page_config(page_title="Unmask", page_icon=":material/domino_mask:", layout="wide", initial_sidebar_state=264)
_settle()
if not shared.signed_in():
    st.stop()
opened = st.Page("views/open.py", title="Open a model", icon=":material/folder_open:")
learn = st.Page("views/learn.py", title="Learn", icon=":material/school:")
page = st.navigation(
    [
        st.Page("views/home.py", title="Home", icon=":material/home:", default=True),
        learn,
        *([opened] if shared.allowed("uploads") else []),
        st.Page("views/attack.py", title="Attack lab", icon=":material/experiment:"),
        st.Page("views/prune.py", title="Prune", icon=":material/content_cut:"),
        st.Page("views/neurons.py", title="Neurons", icon=":material/grain:"),
        st.Page("views/layers.py", title="Layers", icon=":material/layers:"),
        st.Page("views/picture.py", title="Picture", icon=":material/image_search:"),
        st.Page("views/compare.py", title="Compare", icon=":material/compare_arrows:"),
        st.Page("views/questions.py", title="Open questions", icon=":material/quiz:"),
        st.Page("views/runs.py", title="Runs", icon=":material/list_alt:"),
    ]
)
learning.restore()
page.run()
learning.keep(page == learn)
