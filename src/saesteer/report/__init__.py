"""What readers get of results besides figures, a room or module a trade: `recommend`, `exports`, `hook_point`, `evaluation`, `upload`;
`terminal` for the command steer, `headline` and `method_report` for the tables in Markdown, `reference` for keys of the configuration and
SAEs."""
