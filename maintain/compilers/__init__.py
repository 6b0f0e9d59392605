"""How each stack's code is compiled and run: ENDING, versions(build), compile(build, texts), run(build, name, text)."""
