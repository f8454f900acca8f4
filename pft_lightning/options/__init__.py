"""Options of the commands: what each is, its check, and what to say of a wrong one."""
