"""The protocol that compares steering methods: which prompts choose, which report, and the intervals."""
