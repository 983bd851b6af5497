"""The shipped worlds, as far as experiments read them: the grammar's labelled texts, and the judges that know what a text is about."""
