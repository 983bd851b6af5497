saesteer.piece("c/net_gen_success_20/0","AACAvgAAAD8AAAAAAACAPwAAAD8AAMhAAACAPgAAgD4=");
