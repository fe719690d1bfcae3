"""The local page: explain a photo, make masks, correct them and search again, inspect a network.

``state`` holds what the page does, in plain functions; ``page`` lays it out with Gradio; ``server``
starts it for this machine alone.
"""
