"""One module per verb, imported when it is called; each holds a function `command` or a `group` of verbs."""
