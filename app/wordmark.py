"""The name as a picture, for the sidebar and for the door of a shared dashboard."""

from __future__ import annotations

from app import palette


def wordmark(theme_name: str | None) -> str:
    """The name with a unit struck out, as a picture in the theme's ink."""
    ink = palette.theme(theme_name).ink
    dots = "".join(
        f'<rect x="{x}" y="{y}" width="6" height="6" rx="1.2" fill="{fill}"/>'
        for x, y, fill in (
            (1, 6, "#575D6D"), (9, 6, "#A59C74"), (17, 6, "#3B496C"), (1, 14, "#C3B369"), (17, 14, "#8A8678"),
            (1, 22, "#3B496C"), (9, 22, "#707173"), (17, 22, "#E1CC55"),
        )
    )  # fmt: skip
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="132" height="34" viewBox="0 0 132 34">'
        f'{dots}<path d="M9.5 14.5l5 5m0-5l-5 5" stroke="{palette.LIGHT.line["asr"]}" stroke-width="2"/>'
        '<text x="34" y="24.5" font-family="Segoe UI, system-ui, -apple-system, Helvetica, Arial, sans-serif"'
        f' font-size="23" font-weight="650" textLength="84" lengthAdjust="spacingAndGlyphs" fill="{ink}">'
        "Unmask</text></svg>"
    )
