"""The pre-flight: ten minutes of checks that find what otherwise costs weeks."""
