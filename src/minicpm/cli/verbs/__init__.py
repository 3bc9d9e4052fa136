"""One module per verb, imported when the verb is called; each holds a function `command`, or a `group` of verbs."""
