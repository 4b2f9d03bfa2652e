delete from fill_seen where topic = %s and partition = %s and place < %s
