// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/gomodule/redigo/redis"
)

// patience bounds the conversation with the database for one row.
const patience = 2 * time.Second

// row is one of the database.
type row struct {
	ID   int    `json:"id"`
	Text string `json:"text"`
}

// rows is the database: Redis behind a Service, each row a hash row:ID.
type rows struct {
	address string
}

// read returns a row over a new connection, which the Service may take to any
// replica. A row that isn't there yet is made.
func (d rows) read(ctx context.Context, id int) (row, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := redis.DialContext(ctx, "tcp", d.address)
	if err != nil {
		return row{}, fmt.Errorf("connect to database %s: %w", d.address, err)
	}
	defer conn.Close()
	key := fmt.Sprintf("row:%d", id)
	if _, err := redis.DoContext(conn, ctx, "HSETNX", key, "text", fmt.Sprintf("row %d", id)); err != nil {
		return row{}, fmt.Errorf("make %s: %w", key, err)
	}
	text, err := redis.String(redis.DoContext(conn, ctx, "HGET", key, "text"))
	if err != nil {
		return row{}, fmt.Errorf("read %s: %w", key, err)
	}
	return row{ID: id, Text: text}, nil
}
