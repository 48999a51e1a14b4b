"""The page's colours and type."""

from __future__ import annotations

import gradio as gr


def theme() -> gr.themes.Base:
    """Gradio's soft theme, plainer."""
    # Fonts of the reader's own system: nothing is fetched from anywhere.
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "sans-serif")
    soft = gr.themes.Soft(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        font=fonts,
        font_mono=("ui-monospace", "monospace"),
    )
    plain = {
        f"block_{part}_{style}{mode}": value
        for part in ("label", "title")
        for mode in ("", "_dark")
        for style, value in (("background_fill", "transparent"), ("text_color", "*body_text_color_subdued"))
    }
    return soft.set(
        **plain,
        block_label_text_weight="500",
        block_title_text_weight="500",
        block_border_width="1px",
        block_border_width_dark="1px",
        block_label_border_width="0px",
        block_label_border_width_dark="0px",
        block_shadow="none",
        block_shadow_dark="none",
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_900",
        block_background_fill_dark="*neutral_800",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
    )
