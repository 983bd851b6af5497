"""The shipped grammar's world, as far as experiments read it: labelled texts, and the judges that know what a text is about, one of
natural English among them."""
