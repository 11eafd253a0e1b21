package main

import (
	"context"
	"net/url"
	"strconv"
	"sync"
	"time"

	"ferromq/contract/lines"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// Transactional producers, as in tests/java/common/Transactions.java: properties say how a transaction ends.
var transactional = map[string]rocketmq.TransactionProducer{}

type listener struct {
	name  string
	lock  sync.Mutex
	asked map[string]int
}

func state(word string) primitive.LocalTransactionState {
	switch word {
	case "commit":
		return primitive.CommitMessageState
	case "rollback":
		return primitive.RollbackMessageState
	}
	return primitive.UnknowState
}

func (l *listener) ExecuteLocalTransaction(m *primitive.Message) primitive.LocalTransactionState {
	return state(m.GetProperty("local"))
}

func (l *listener) CheckLocalTransaction(m *primitive.MessageExt) primitive.LocalTransactionState {
	lines.Line("event %s %s", l.name, message(m).Put("transaction", m.TransactionId))
	l.lock.Lock()
	before := l.asked[m.TransactionId]
	l.asked[m.TransactionId]++
	l.lock.Unlock()
	unknowns, err := strconv.Atoi(m.GetProperty("unknowns"))
	if err == nil && before < unknowns {
		return primitive.UnknowState
	}
	return state(m.GetProperty("check"))
}

func startTransactional(args url.Values) error {
	name := args.Get("name")
	p, err := rocketmq.NewTransactionProducer(&listener{name: name, asked: map[string]int{}},
		producer.WithNsResolver(primitive.NewPassthroughResolver([]string{args.Get("namesrv")})),
		producer.WithGroupName(args.Get("group")), producer.WithInstanceName(name), producer.WithSendMsgTimeout(5*time.Second))
	if err != nil {
		return err
	}
	if err := p.Start(); err != nil {
		return err
	}
	lock.Lock()
	transactional[name] = p
	lock.Unlock()
	return nil
}

func sendTransactional(args url.Values, answer func(lines.Row)) error {
	p, err := find(transactional, args.Get("name"))
	if err != nil {
		return err
	}
	for _, text := range args["m"] {
		spec, err := url.ParseQuery(text)
		if err != nil {
			return err
		}
		r, err := p.SendMessageInTransaction(context.Background(), build(spec))
		if err != nil {
			return err
		}
		answer(result(r.SendResult).Put("state", r.State))
	}
	return nil
}
