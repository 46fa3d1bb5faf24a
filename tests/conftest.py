"""The tests render as the programs do, and none fails because the machine is slow."""

from hypothesis import settings

from hilserl.headless import render_off_screen

render_off_screen()
settings.register_profile("hilserl", deadline=None)
settings.load_profile("hilserl")
