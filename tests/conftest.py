"""The tests render as the programs do."""

from hilserl.headless import render_off_screen

render_off_screen()
