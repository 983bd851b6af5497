saesteer.piece("c/input_score/0","AACAPgAAgD8fhSs/AACAPylcjz4AAIA/AAAAAAAAAAA=");
