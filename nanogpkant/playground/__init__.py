"""The playground: a run as one HTML file in which the model writes, opens up and can be edited.

``recipe`` describes the model and ``pack`` its numbers; ``observe``, ``fitted`` and ``history``
say what is known of its functions; ``page`` puts all of it into one file with the modules of
``web/``, which run the model. ``edits`` applies what was bent there to the real run.
"""
