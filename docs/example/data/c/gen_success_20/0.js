saesteer.piece("c/gen_success_20/0","AADAPwAAIEAAAAAAAACgPwAAAD8AAOhAAABAPwAAAD8=");
